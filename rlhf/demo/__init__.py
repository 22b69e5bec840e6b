"""What `make demo` makes and starts: a project to try, its logins, the three processes."""
