"""The port of every service for whoever operates the process: on this machine only, and without a credential."""
