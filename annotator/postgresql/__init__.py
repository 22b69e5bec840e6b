"""Django's PostgreSQL backend, as config/settings.py names it."""
