"""A headless browser, and the playground in it."""
