"""A job's logs: collected, bundled, shown while they grow, and stored at their public address."""
