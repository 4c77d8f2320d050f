"""Finding calls: filters, and what is indexed of each call once it is stored."""
