"""Moving messages: transports behind one contract."""
