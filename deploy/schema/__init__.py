"""The schema of the chart's values: its own keys, and every option of the services that an operator may set."""
