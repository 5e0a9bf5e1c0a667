"""Container images, manifests, and the tools that builds and checks fetch."""
