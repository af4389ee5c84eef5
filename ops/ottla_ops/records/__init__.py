"""Records of a topic for tools: from a cluster or from files, and into files of other formats."""
