"""Who can answer: registrations, verdicts, probes."""
