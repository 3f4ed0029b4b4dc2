"""The dashboard, as a program that writes it: `python deploy/prometheus/dashboard`."""
