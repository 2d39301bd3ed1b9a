"""Models: loading weights, chat templates, generation, log-probs, and servers. The one place that opens weights."""
