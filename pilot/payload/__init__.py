"""Running a payload: what to run, in what surroundings, in which container; starting, watching, stopping, accounting."""
