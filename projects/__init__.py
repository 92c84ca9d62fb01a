"""The course's projects, built on minidl: run them as `python -m projects.NAME`."""
