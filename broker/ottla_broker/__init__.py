"""The broker process: every socket, file and clock of an Ottla cluster."""
