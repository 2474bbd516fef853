"""Store a photograph, and answer before it is processed."""

from flask import Flask, request

import relevo
from pictures import Photo, app, sessions

site = Flask(__name__)


@site.post("/photos/<name>")
def upload(name: str) -> tuple[dict[str, int], int]:
    with sessions() as session:
        photo = Photo(name=name, data=request.get_data())
        session.add(photo)
        app.dispatch(relevo.Event("photo.uploaded", subject=photo), session=session)
        if not photo.data:
            session.rollback()  # the rollback removes the event too
            return {}, 400
        session.commit()
        return {"id": photo.id}, 202


@site.get("/photos/<int:photo_id>")
def show(photo_id: int) -> dict[str, object]:
    with sessions() as session:
        photo = session.get_one(Photo, photo_id)
        return {"name": photo.name, "size": photo.size}
