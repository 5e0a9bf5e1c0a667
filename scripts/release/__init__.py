"""Container images, manifests, test runs and the tools that builds and tests fetch."""
