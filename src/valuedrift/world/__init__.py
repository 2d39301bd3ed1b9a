"""The authored world of the sandbox: its topics, its language, and its data sets."""
