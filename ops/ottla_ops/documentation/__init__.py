"""The documentation as a site: pages of `docs/`, references made from the code, and its build."""
