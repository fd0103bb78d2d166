"""What a model can do: tasks with one right answer, each with an oracle and a chance level."""
