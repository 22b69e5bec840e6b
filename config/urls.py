"""Every address of the site: both apps, sign-in, Django's admin."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path

from annotator.views.signing_in import sign_in

urlpatterns = [
    path("", include("annotator.urls")),
    path("", include("rlhf.urls")),
    path("sign-in/", sign_in, name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path("django-admin/", admin.site.urls),
]
