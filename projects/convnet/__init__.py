"""A modern ConvNet from scratch on small pictures: run it as `python -m projects.convnet`."""
