"""Every address of the site: both apps, sign-in, Django's admin."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path

urlpatterns = [
    path("", include("annotator.urls")),
    path("", include("rlhf.urls")),
    path("sign-in/", auth.LoginView.as_view(template_name="sign_in.html"), name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path("django-admin/", admin.site.urls),
]
