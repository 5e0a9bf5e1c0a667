"""The Helm chart with the values of several users, and checks of Kubernetes manifests."""
