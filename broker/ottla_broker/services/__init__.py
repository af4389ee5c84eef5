"""What a broker does for a caller, whatever the transport."""
