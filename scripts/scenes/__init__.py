"""The embedded model: its images, configuration, export and accuracy."""
