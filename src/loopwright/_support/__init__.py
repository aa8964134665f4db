"""The ground floor: environment variables, optional packages, files and logging; imports nothing of ours but errors."""
