"""The wire language that brokers and clients share: batches, models, errors, routes. No IO."""
