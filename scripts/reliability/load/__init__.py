"""Shared by the reliability suites: requests, clients, loads, a service under test and a report."""
