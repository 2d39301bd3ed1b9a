"""Forecasts before a training, and attribution after it. This folder stands on the pipeline, which samples and judges the start."""
