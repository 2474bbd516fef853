"""The listener that `relevo worker` or `relevo drain` calls for a photograph."""

import relevo
from pictures import sessions


@relevo.listener("photo.uploaded")
def measure(_: relevo.Event, call: relevo.Call) -> None:
    with sessions() as session:
        photo = session.merge(call.subject)
        photo.size = len(photo.data)
        session.commit()
