"""`python -m hyla.evals.harness`: the command `lm-eval`, with the model `hyla`."""

if __name__ == "__main__":
    from hyla.evals.harness.plugin import main

    main()
