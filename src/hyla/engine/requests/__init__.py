"""What an engine is told and what it tells: requests, parameters, options, events. Plain data without PyTorch."""
