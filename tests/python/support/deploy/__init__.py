"""The Helm chart as a user calls it, and checks of Kubernetes manifests."""
