"""The embedded model: its images, its shape, its export and its accuracy."""
