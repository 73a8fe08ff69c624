"""Writing events (the outbox) and following them (the hub)."""
