"""Each optional, each one line in the host's code: what other libraries run, or read, as ours."""
