"""How fast the project is: against the machine's limit, and against what else a user might take."""
