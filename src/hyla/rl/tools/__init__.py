"""Tools that a model may call between its turns: functions of the user's, in processes of their own."""
