"""The REST Proxy API, version 3: another product's URLs and bodies over the same services."""
