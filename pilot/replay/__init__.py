"""``pilot-replay``: a job again, on the machine of whoever wants to know what went wrong."""
