"""The controller: metadata records, the image they make, and the commands that produce them."""
