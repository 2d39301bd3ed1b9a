"""The authored world of the sandbox: its topics, its language, and the data sets it makes."""
