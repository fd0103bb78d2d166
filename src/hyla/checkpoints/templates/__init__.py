"""Chat templates are programs from elsewhere: a process of their own runs them, in a sandbox and within bounds."""
