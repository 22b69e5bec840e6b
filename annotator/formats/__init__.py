"""What files of preferences look like: how they are packed, and what their rows say."""
