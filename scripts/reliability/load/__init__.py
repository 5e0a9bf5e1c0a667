"""What the suites of reliability share: questions, clients, loads, a service under test, a report."""
