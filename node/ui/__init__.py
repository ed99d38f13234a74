"""The operators' page: one document, its style and its scripts. It holds nothing; what it shows it asks of the operators' API."""
