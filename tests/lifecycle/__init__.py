"""A small world in which everything that moves a deletion request can happen in any order, and the laws it keeps."""
