"""The second job: an allocation carried out as a full run, measured beside predicted."""
