"""From readings to numbers: profiles, drifts, contrasts, each with its interval."""
