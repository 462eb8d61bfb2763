"""What runs everything else: private and durable files, locks, the batch worker, callbacks, the event loop."""
