"""What is done with a photograph afterwards, by `relevo worker` or `relevo drain`."""

import relevo
from pictures import sessions


@relevo.listener("photo.uploaded")
def measure(_: relevo.Event, call: relevo.Call) -> None:
    with sessions() as session:
        photo = session.merge(call.subject)
        photo.size = len(photo.data)
        session.commit()
