"""Tables for events: messages that are not published yet, and the ids of events that were processed."""
