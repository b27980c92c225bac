"""The ground the parts stand on: stop, journal, retries, HTTP, secrets, events. It knows jobs, and no server."""
